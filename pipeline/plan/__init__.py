"""From flags to a checked plan: sources, sample, feature mapping, output layout, memory."""
