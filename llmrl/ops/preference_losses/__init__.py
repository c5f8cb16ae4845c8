"""Preference losses: of pairs of completions [M], or of whole completions [N], unreduced and to be minimised.

A pair is two completions of a group with different rewards: a chosen one and a rejected one. In the equations

    S = log pi(y|x), the sum over response tokens        A = S / tokens of y
    u = S - log pi_ref(y|x), the log ratio               D = u_w - u_l, the margin

the index w stands for the chosen completion and l for the rejected one. The recipe's loss is the mean over pairs, in
which all groups weigh the same, or the mean over completions. A term that imitates the chosen completion, such as that
of ORPO, is the policy loss `nll` under a token weight (`chosen_tokens`, `chosen_completions`) beside these losses.
"""
