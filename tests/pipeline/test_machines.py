from talklip_ray.pipeline.machines import Machines, Meter


def test_what_is_held_adds_up_while_machines_come_and_go():
    now, there = [0.0], [Machines(cores=2.0)]
    meter = Meter(lambda: there[0], lambda: now[0])
    for at, then in ((10.0, Machines(cores=16.0, gpus=4.0)), (15.0, Machines()), (100.0, Machines(cores=1.0))):
        now[0], there[0] = at, then
        meter.read()
    assert meter.held == Machines(cores=10 * 2.0 + 5 * 16.0, gpus=5 * 4.0)
