"""`duro demo`: runs the main job on a real PostgreSQL 16 and checks the result. The check can fail.

     billing  ── record_event, commit ──► PostgreSQL ◄──► duro work          (a separate process)
     engine       (or roll back)              │               │ signed POST
        │                                     │               ▼
        │ committed events                    │           receiver            (a separate process, independent code)
        ▼                                     ▼               │ receipts: what arrived, when, verified or not
    observations ────────► verdict ◄────── audit              │
        ▲                                                     │
        └─────────────────────────────────────────────────────┘

One transaction with an event in it stays open from before the first commit until everything has arrived. Then it is
rolled back. A last event in each mode follows: once those have arrived, everything that finished before them has
been sequenced, so an event that is still missing is lost.
"""
