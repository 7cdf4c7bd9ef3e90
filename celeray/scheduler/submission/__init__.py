"""Submission: what a publish promises beyond being sent. Deduplicated, all or none, kept by replicas.

All of it is one Lua script, `lua/submit.lua`, so it works the same whichever transport takes the messages. What is
published without any of it goes Celery's own way.
"""
