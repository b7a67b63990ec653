"""Episodes of a policy in an environment: the sampler, the rollout stage and the evaluation. Never changes a policy."""
