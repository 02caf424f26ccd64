"""The audit room: who came, what came, what was made of it and where it went (PS3.15 A.5).

No record holds a patient's name.
"""
