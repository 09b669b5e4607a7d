start_all()
for machine in machines:
    machine.succeed(f"echo 'written by {machine.name}' | systemd-cat --identifier=story; journalctl --sync")
left.succeed("echo said; echo complained >&2; exit 3")
