"""What goes wrong on purpose: kills, damage, full disks, bad input, values that are not finite."""
