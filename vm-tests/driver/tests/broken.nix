# A story that fails, for the test of what is told then.
{
  description = "the driver's own: a story that fails";
  machines = {
    left = { };
    right = { };
  };
  script = ./broken.py;
}
