"""Actors: one agent each, with a bounded mailbox, edges that account for every event, and a supervised life."""
