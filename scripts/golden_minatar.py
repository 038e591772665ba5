"""Writes tests/golden/minatar.npz: games of MinAtar's Breakout, which ours must repeat.

pip install MinAtar==1.0.15 numpy && python scripts/golden_minatar.py
"""

from pathlib import Path

import numpy as np
from minatar.environments.breakout import Env

FILE = Path(__file__).parents[1] / "tests" / "golden" / "minatar.npz"
ACTIONS = (0, 1, 3)  # MinAtar's numbers of our actions: stay, left, right
GAMES = 6


def play(seed: int) -> dict[str, np.ndarray]:
    """A game of a player who catches the ball in the one way or the other, and may err at times.

    Odd games begin with half of the bricks, so that the ball comes in between them.
    """
    env, chance = Env(), np.random.RandomState(seed)
    env.random = np.random.RandomState(seed)
    env.reset()
    env.brick_map *= chance.rand(10, 10) < (0.5 if seed % 2 else 1.0)
    images, actions, rewards = [env.state()], [], []
    ended = False
    while not ended and len(actions) < 1_000:
        ahead = env.ball_x + (1 if env.ball_dir in (1, 2) else -1)
        aim = ahead if chance.rand() < 0.5 else env.ball_x  # the edge of the paddle, or its middle
        follow = 1 if aim < env.pos else 2 if aim > env.pos else 0
        action = chance.randint(3) if chance.rand() < 0.02 * (seed % 3) else follow
        reward, ended = env.act(ACTIONS[action])
        images.append(env.state())
        actions.append(action)
        rewards.append(reward)
    return {
        "images": np.packbits(np.asarray(images, bool)),
        "actions": np.asarray(actions, np.int8),
        "rewards": np.asarray(rewards, np.int8),
        "ended": np.asarray(ended),
    }


if __name__ == "__main__":
    games = [play(seed) for seed in range(GAMES)]
    np.savez_compressed(
        FILE,
        **{f"{name}_{n}": column for n, game in enumerate(games) for name, column in game.items()},
    )
    print(
        [(len(game["actions"]), int(game["rewards"].sum()), bool(game["ended"])) for game in games]
    )
