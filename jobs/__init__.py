"""The day's stages, in order: validate_sources, build_user_features, encode_users, audit_tokens, publish_tokens.

Beside them: init_lakehouse, simulate_sources and import_stackexchange (raw input), train_tokenizer, register_tokenizer,
promote_tokenizer, crosswalk_codes, create_views, write_report, join_labels, evaluate_tokens, maintain_lakehouse. A stage
never imports a stage; `cli` strings them together.
"""

DAILY_STAGES = ("validate_sources", "build_user_features", "encode_users", "audit_tokens", "publish_tokens")
TOKEN_STAGES = DAILY_STAGES[2:]  # those that work under a tokenizer version
