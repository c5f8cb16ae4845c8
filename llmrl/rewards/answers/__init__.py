"""Reading and comparison of mathematical answers.

normal_form   one spelling for answers that differ in typesetting alone
numbers       exact numbers as they are written, with their units (units)
expressions   expressions, which are read into functions and compared by their values (values)
relations     inequalities, intervals and their unions as sets of real numbers
collections   sets, tuples, lists and matrices
equality      whether two answers are equal
"""
