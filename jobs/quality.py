class R: failures=()
def evaluate(*a): return R()
def load_suite(*a): return None
def packaged_suite(*a, **k): return None
SuiteResult=R
