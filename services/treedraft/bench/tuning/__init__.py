"""Tuning: which drafter and which settings suit a user's prompts and machine."""
