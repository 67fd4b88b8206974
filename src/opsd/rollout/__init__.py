"""Where completions come from: sources, horizons, engines, weight sync."""
