"""The controller's configuration; see `config.config`."""

from cellyard_controller.config.bounds import LibraryConfig, LimitsConfig, ReplicasConfig
from cellyard_controller.config.config import Config, default_data, with_sources
from cellyard_controller.config.environments import CondaConfig, EnvironmentsConfig
from cellyard_controller.config.sandboxes import NetworkConfig, PoolConfig, TemplateConfig
from cellyard_controller.config.watching import LogConfig, TracingConfig

__all__ = [
    "CondaConfig",
    "Config",
    "EnvironmentsConfig",
    "LibraryConfig",
    "LimitsConfig",
    "LogConfig",
    "NetworkConfig",
    "PoolConfig",
    "ReplicasConfig",
    "TemplateConfig",
    "TracingConfig",
    "default_data",
    "with_sources",
]
