"""`duro demo`: the main job on a real PostgreSQL 16, and a verdict on it that can be "no".

     billing  ── record_event, commit ──► PostgreSQL ◄──► duro work          (a process of its own)
     engine       (or roll back)              │               │ signed POST
        │                                     │               ▼
        │ what was committed                  │           receiver            (a process of its own, code not ours)
        ▼                                     ▼               │ what arrived, when, verified or not
      board ─────────────► verdict ◄────── audit              │
        ▲                                                     │
        └─────────────────────────────────────────────────────┘

One transaction stays open, with an event in it, from before the first commit until everything has arrived, and is
then rolled back. A last event in each mode follows it: once those have arrived, everything that finished before
them has been sequenced, so what has not come by then never will.
"""
