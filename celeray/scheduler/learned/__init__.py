"""Learned VRAM: what runs of a task were seen to use, by task name and device model, and what is asked for by it."""
