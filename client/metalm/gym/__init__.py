"""MetaLM as an environment of gymnasium, with MetaGym's own interface on it.

>>> import gymnasium, metalm.gym
>>> env = gymnasium.make("meta-lm-v0", V=64, n=10, l=64, e=0.10, L=4096, seed=7)
>>> x, y = env.data_generator()
>>> print(x.shape, x[:6], y[:6])
(4096,) [25 35  9 38 42 13] [35  9 38 42 13 53]

Importing this module registers "meta-lm-v0"; `gymnasium.make("metalm.gym:meta-lm-v0")` imports it.
`gymnasium.make_vec` makes a `MetaLMVectorEnv`. Raises ImportError where gymnasium is not installed.
"""

try:
    import gymnasium
except ModuleNotFoundError as error:
    if error.name != "gymnasium":
        raise
    raise ImportError(
        "metalm.gym needs gymnasium; install it with: pip install '.[gym]'", name=error.name
    ) from error

from metalm.gym.env import MetaLMEnv
from metalm.gym.scoring import Action
from metalm.gym.vector import MetaLMVectorEnv

__all__ = ["Action", "MetaLMEnv", "MetaLMVectorEnv"]

# No wrappers: they would hide MetaGym's methods, as wrappers of gymnasium 1 forward no attributes.
# What they would check at run time, the order of calls, the environments check themselves.
gymnasium.register(
    id="meta-lm-v0",
    entry_point="metalm.gym:MetaLMEnv",
    vector_entry_point="metalm.gym:MetaLMVectorEnv",
    order_enforce=False,
    disable_env_checker=True,
)
