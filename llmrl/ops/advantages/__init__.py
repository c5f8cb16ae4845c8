"""Credit per token, computed without gradient on the whole batch of an optimizer step, before it is cut.

    response_mask   0  0  1  1  1  0  0  1  1  .
    rewards         0  0  0  0  r  0  0  0  R  .     outcome = r + R
    grpo, rloo      0  0  a  a  a  0  0  a  a  .     one number per trajectory on all its response tokens
    reinforce       0  0  g  g  g  0  0  h  h  .     g = r + R, h = R at gamma 1, less the baseline

Rewards count where response_mask is True. A trajectory without response tokens belongs to no group: it changes
nobody's baseline. Statistics are taken in fp64, so that equal outcomes give credit of exactly 0. Every function
returns a Credit whose advantages are [N, T] fp32, and 0 off the mask.
"""
