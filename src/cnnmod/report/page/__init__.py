"""A self-contained HTML page about a network: verdict, rows, blocks, times, selections, exported files."""
