"""How many nodes are wanted from Ray's autoscaler, and which go back: decided here, from values. Pure.

`node_types` is what a user writes down and light to import, since producers read the settings; `deciding` decides by
`timelines`. celeray/scheduler/bridge/elastic_watch.py acts.
"""
