"""Tokens with scopes: who made them, what they may do, and how an executor knows it."""
