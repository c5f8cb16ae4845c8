"""Preference losses: of pairs of completions [M], or of whole completions [N], unreduced and to be minimised.

A pair is two completions of a group with different rewards: a chosen one and a rejected one. u = log pi(y|x) - log
pi_ref(y|x) is a completion's log ratio, u_w the chosen one's and u_l the rejected one's.
"""
