"""`opsd inspect`: the teacher's judgement of a run's rollouts, token by token, as one HTML page."""
