"""Durable edges: a stream on the server between the producing and the consuming agent, so that nothing is lost."""
