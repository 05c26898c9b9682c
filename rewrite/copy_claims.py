"""temporary"""


def claims_of(splicer, job, step):
    return []
