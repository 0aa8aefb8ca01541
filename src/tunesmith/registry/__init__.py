"""The model registry: packages, their verification, versions and aliases."""
