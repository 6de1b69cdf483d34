"""Simulates merchants and their customers through time on the real billing engine.

      agenda (customers' intentions, in time order)           virtual clock
        │  sign up, cancel, pause, change the plan,             │
        │  replace the card, ask for a refund, …                ▼
        ▼                                              every hour: the scanners, until nothing is due
      Checkout, SubscriptionActions  ──► transactions and their events ◄──────┘
                              │
      reactions ◄─────────────┘   to events, as a merchant's server would react
        └──► agenda

Every row and event is written by the engine as in production. Only the clock and the gateway, which answers by scenario, are
simulated. The same seed gives the same customers and intentions.
"""
