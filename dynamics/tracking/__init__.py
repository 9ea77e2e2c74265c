"""Walks a checkpoint series once and fills a run with what it measured."""
