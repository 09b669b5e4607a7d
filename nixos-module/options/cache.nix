# [cache]
{ t, left, ... }:

{
  serve = left {
    type = t.bool;
    example = false;
    usual = "`true`";
    description = "Whether stock Nix may substitute from the address of the pages.";
  };

  priority = left {
    type = t.number;
    example = 30;
    usual = "50, which is after cache.nixos.org";
    description = "How clients rank it among their substituters; lower is asked first.";
  };

  level = left {
    type = t.between 1 19;
    example = 9;
    usual = "3";
    description = "The zstd level NARs are compressed at.";
  };

  size = left {
    type = t.size;
    example = "20 GiB";
    usual = "as much as is reasonable on the disk";
    description = "Compressed NARs kept on disk, least recently used ones going first; `off` keeps none.";
  };
}
