"""The host process: agents, the routes between them, and the lanes that join them to the backplane."""
