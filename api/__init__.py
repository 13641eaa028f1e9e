"""HTTP: boards, stats, health, metrics and the page; reads Redis."""
