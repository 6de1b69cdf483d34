"""The benchmark: what duro does, as ratios measured in one run on one machine.

    duro bench ──┬── scratch PostgreSQL 16           a fresh database per measurement
                 ├── duro work                       one, or two, as anyone would run it
                 ├── receiver                        bytes-level, faster than all else here
                 ├── baseline                        a bare aiohttp client loop: no database, no promises
                 ├── bytes client                    shows how fast the receiver is alone
                 └── writers                         producers that record events and stamp their commits

What is compared is measured in turn (baseline, duro, baseline, duro, …) and told by its median, because machines are
noisy. Every process is a child of this one, in a session of its own, and is killed with its group at the end.
"""
