"""Hand-kept great-expectations suites, as data: `sources/<name>.json`, `user_features.json`, `user_tokens.json`."""
