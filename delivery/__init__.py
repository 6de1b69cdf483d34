"""What sends: signing, the egress guard, the senders, dispatch and settlement."""
