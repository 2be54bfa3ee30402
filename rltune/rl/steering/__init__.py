"""The index form of the agent: it sets parameters of the priority index and of the market, a round at a time."""
