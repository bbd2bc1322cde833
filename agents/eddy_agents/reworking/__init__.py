"""What the cookings that rework cooked events share: keys of events, what they hold, how they pass events on."""
