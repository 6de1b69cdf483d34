"""The benchmark: what duro does, as ratios measured in one run on one machine.

    duro bench ──┬── scratch PostgreSQL 16           a fresh database per measurement
                 ├── duro work                       one or two workers, with default settings
                 ├── receiver                        reads bytes only; faster than every other part
                 ├── baseline                        a bare aiohttp client loop: no database, no guarantees
                 ├── bytes client                    measures the receiver alone
                 └── producers                       record events and timestamp their commits

Both sides of a comparison are measured in turn (baseline, duro, baseline, duro, …), and the median counts, because
machines are noisy. Every process is a child of this one, in its own session, and its group is killed at the end.
"""
