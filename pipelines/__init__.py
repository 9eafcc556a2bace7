"""The container's wing: models, graphs, sparsity, stages. Never imports envs, docker or invoke."""
