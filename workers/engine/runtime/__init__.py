"""What every engine needs around its model: pending prompts, timers, heartbeats and faults."""
