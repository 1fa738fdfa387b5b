"""One worker of a machine: `imagefleet machine` runs this once per GPU, and provisioning beside."""

from tasks.machine.app import main

main()
