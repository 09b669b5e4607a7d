# [limits]
{ t, left, ... }:

let
  gib4 = 4294967296;
  of = type: description: example: usual: left { inherit type description example usual; };
  bytes = least: of (t.bytes least gib4);
  limit = of t.limit;
  duration = of t.duration;
  count = of t.count;
in
{
  connections = of (t.between 1 1000000) "Connections at once, but for those of root and of the daemon's own user." 512 "4096";
  connectionsPerUser = of (t.between 1 1000000) "Connections of one user at once." 64 "512";
  handshakeTime = duration "How long a client may take to shake hands." "10s" "`30s`";

  maxString = bytes 4096 "Bytes in one string of the protocol." 1048576 "64 KiB";
  maxText = bytes 65536 "Bytes in one text of the protocol, such as a derivation." 33554432 "64 MiB";
  maxItems = limit "Items in one list of the protocol." 500000 "1000000";
  maxPaths = limit "Store paths in one list of the protocol." 500000 "1000000";
  maxMessage = bytes 65536 "Bytes in one message of the protocol." 134217728 "256 MiB";
  maxFrame = bytes 65536 "Bytes in one frame of an upload." 33554432 "16 MiB";
  maxFeatures = limit "Features that a client may list." 1000 "100000";
  maxControl = bytes 65536 "Bytes in one request of nixci's own." 33554432 "64 MiB";

  jobs = limit "Jobs in one evaluation." 200000 "1000000";
  closureBytes = limit "Compressed bytes in one uploaded closure." 8589934592 "16 GiB";
  closureUnpackedBytes = limit "Bytes in one uploaded closure once decompressed." 34359738368 "64 GiB";
  narBytes = limit "Bytes in one object." 8589934592 "16 GiB";
  logBytes = limit "Bytes of log kept per attempt." 16777216 "64 MiB";
  webhookBytes = bytes 65536 "Bytes in the body of one webhook delivery." 5242880 "25 MiB";

  buildTime = duration "How long a build may run." "4h" "as long as it likes";
  silentTime = duration "How long a build may print nothing." "30m" "as long as it likes";
  abandonAfter = duration "How long an evaluation without its client waits for more jobs." "5m" "`10m`";

  knownPaths = count "Paths of each store that are known to be valid and answered from memory, about 100 bytes each; 0 asks always." 100000 "250000";
  knownInfos = count "Paths of each store whose infos are answered from memory, about a kilobyte each; 0 asks always." 20000 "50000";
  knownTime = duration "How long they are known. For as long the store does not collect them." "5m" "`10m`";
  stopTime = duration "How long a stop waits for connections and builds to wind down." "30s" "`20s`";
}
