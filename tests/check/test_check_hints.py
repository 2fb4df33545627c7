"""Suite "check": a failure's own hint is the same in `check` and `status`."""
import pytest
from checking import check, line


@pytest.mark.parametrize("text, name", [("[edge_ca]\n", "iotedge-apply"), ("cloud_retries = '1'\n", "iotedge-apply")])
def test_a_rule_of_config_apply(fresh, text, name):
    w = fresh()
    w.config_toml.write_text(text)
    found = line(check(w)[1], name)
    w.start_daemon()
    failure = w.wait_for_failure("config-conflict")["LastError"]
    assert (found["kind"], found["message"], found["remedy"]) == (failure[0], failure[2], failure[3])


def test_a_warning_of_the_hand_off(fresh):
    """The helper's warning has the hint that `check` gives without the daemon."""
    w = fresh()
    w.config_toml.write_text('auto_reprovisioning_mode = "AlwaysOnStartup"\n')
    found = line(check(w)[1], "iotedge-config")
    w.start_daemon()
    warnings = w.wait_for_state("handed-off")["Warnings"]
    assert [(found["kind"], found["message"], found["remedy"])] == [tuple(x) for x in warnings]
