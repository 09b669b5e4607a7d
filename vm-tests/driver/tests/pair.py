start_all()

with subtest("commands"):
    assert left.succeed("echo one", "echo two") == "one\ntwo\n"
    assert left.execute("exit 7") == (7, "")
    assert left.execute("false | true")[0] == 1
    assert left.execute("echo $not_there")[0] != 0
    assert left.fail("echo said; false") == "said\n"
    assert left.execute("sleep 60", timeout=1)[0] == 124
    left.succeed("sleep 300 >&2 &")
    for step in (lambda: left.succeed("false"), lambda: left.fail("true"), lambda: left.wait_until_succeeds("false", timeout=1)):
        try:
            step()
        except Exception as error:
            assert "left: " in str(error), error
        else:
            raise AssertionError("a step that does not hold went through")

with subtest("files, users and settings of the story"):
    assert left.succeed("cat /etc/greeting; stat -c %a /etc/greeting") == "hello\n640\n"
    assert left.succeed("su - alice -c 'id -un; pwd'") == "alice\n/home/alice\n"
    assert right.succeed("nix config show max-jobs").strip() == "3"
    left.copy_from_host("/etc/os-release", "/srv/copied/here")
    left.wait_for_file("/srv/copied/here")

with subtest("units"):
    left.wait_for_unit("ssh.service")
    left.wait_for_open_port(22)
    left.execute("systemd-run --quiet --service-type=oneshot --unit=broken false")
    for unit in ("broken.service", "there-is-none.service"):
        try:
            left.wait_for_unit(unit, timeout=60)
        except Exception as error:
            assert unit in str(error), error
        else:
            raise AssertionError(f"{unit} is active")

with subtest("they find each other by name"):
    right.wait_for_open_port(22)
    assert left.succeed("ssh right cat /etc/hostname") == "right\n"
    assert right.succeed("ssh left cat /etc/hostname") == "left\n"

with subtest("a cable that is out"):
    right.block()
    left.fail("timeout 60 ssh -o ConnectTimeout=2 right true")
    right.succeed("true")
    right.unblock()
    left.wait_until_succeeds("timeout 60 ssh right true", timeout=300)

with subtest("a sandboxed build"):
    out = left.succeed("su - alice -c 'nix-build --no-out-link /etc/built.nix'").strip()
    assert left.succeed(f"cat {out}") == "built\n"

with subtest("power that goes keeps the disk, and so does an orderly reboot"):
    left.succeed("echo kept > /srv/kept; sync")
    left.crash()
    left.start()
    assert left.succeed("cat /srv/kept") == "kept\n"
    left.reboot()
    assert left.succeed("cat /srv/kept") == "kept\n"
    left.wait_for_open_port(22)
    right.wait_until_succeeds("timeout 60 ssh left true", timeout=300)
    left.shutdown()
    right.fail("timeout 60 ssh -o ConnectTimeout=2 left true")
