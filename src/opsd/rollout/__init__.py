"""Rollouts: sources, horizons, engines, weight synchronisation."""
