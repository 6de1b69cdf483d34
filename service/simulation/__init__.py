"""Merchants and their customers, played through time on the real billing engine.

      agenda (what customers mean to do, and when)            virtual clock
        │  sign up, cancel, pause, change the plan,             │
        │  give another card, ask for a refund, …               ▼
        ▼                                              every hour: the scanners, until nothing is due
      Checkout, SubscriptionActions  ──► transactions and their events ◄──────┘
                              │
      reactions ◄─────────────┘   as a merchant's server would learn of it: by the event
        └──► agenda

Nothing is written past the engine: each row and each event comes about as it would in production, only the clock is
another, and so is the gateway, which answers by scenario. The same seed gives the same people and the same intentions.
"""
