// The registers that the firmware touches, by the vendor's names. Where they are described, in tt-isa-documentation:
//
//	configuration       BlackholeA0/TensixTile/TensixCoprocessor/BackendConfiguration.md; a word's index is its *_ADDR32 in
//	                    tt-metal tt_metal/hw/inc/internal/tt-1xx/blackhole/cfg_defines.h
//	of the packer       WormholeB0/TensixTile/TensixCoprocessor/Packers (Blackhole: PACR.md)
//	of the unpackers    BlackholeA0/TensixTile/TensixCoprocessor/UNPACR_Regular.md
//	NIU                 BlackholeA0/NoC/MemoryMap.md, Counters.md
//	soft reset, clocks  BlackholeA0/TensixTile/SoftReset.md, DebugTimestamper.md
#ifndef REGISTERS_H
#define REGISTERS_H

// Backend configuration, CFG(word). Where several share a word, the one that is set.
enum {
  ALU_FORMAT_SPEC = 0,         // overrides of source formats
  ALU_FORMAT_SPEC_REG = 1,     // formats of SrcA, SrcB, Dst; 32-bit Dst; int8
  ALU_ACC_CTRL = 2,            // zero flags, ReLU of the packer
  ECC_SCRUBBER = 3,
  PCK0_ADDR_CTRL_XY_0 = 12,    // strides in Dst, bytes: x, y
  PCK0_ADDR_CTRL_ZW_0 = 13,    // z, w
  PCK_DEST_RD_CTRL = 18,       // Dst is read as 32 bits
  TILE_ROW_SET_MAPPING_0 = 20,
  PCK_EDGE_OFFSET_SEC0 = 24,
  PACK_COUNTERS_SEC0 = 28,
  UNP0_FORCED_SHARED_EXP = 50,
  UNP0_ADDR_CTRL_XY_1 = 56,    // strides of the output
  UNP0_ADDR_CTRL_ZW_1 = 57,
  UNP1_ADDR_CTRL_ZW_1 = 59,
  THCON_SEC0_TILE = 64,        // unpacker 0's tile descriptor, REG0: format, x
  THCON_SEC0_TILE_YZ = 65,     // y, z
  THCON_SEC0_PACK_SIZES = 68,  // REG1: sizes of row starts and exponents
  THCON_SEC0_PACK_L1 = 69,     // REG1: where the packer writes, in 16 bytes, less one
  THCON_SEC0_PACK_FORMAT = 70, // REG1: zero compression off, formats out and in
  THCON_SEC0_PACK_MISC = 71,   // REG1: downsampling, accumulation in L1
  THCON_SEC0_UNPACK = 72,      // REG2: format out, throttle
  THCON_SEC0_UNPACK_MISC = 73, // REG2: compression off, forced exponent, to Dst
  THCON_SEC0_BASE = 76,        // REG3: where unpacker 0 reads, in 16 bytes, less one
  THCON_SEC0_DEST = 84,        // REG5: which datum of SrcA or Dst it writes first
  THCON_SEC0_X_DIM = 86,       // REG5: datums of a tile
  THCON_SEC0_OFFSET = 92,      // REG7
  THCON_SEC1_TILE = 112,       // unpacker 1's likewise
  THCON_SEC1_TILE_YZ = 113,
  THCON_SEC1_UNPACK = 120,
  THCON_SEC1_UNPACK_MISC = 121,
  THCON_SEC1_BASE = 124,
  DEST_TARGET_PACK_SEC0 = 180, // the packer's first row of Dst
  RISCV_IC_INVALIDATE = 185,   // a bit a core
};

// Each thread's configuration, T_SETC16(register, value).
enum {
  CFG_STATE_ID = 0,             // which of the two configurations is the thread's
  DEST_TARGET_MATH = 1,         // first row of Dst
  DISABLE_IMPLIED_SRCA_FMT = 2, // ALU_FORMAT_SPEC_REG says SrcA's format, and not the unpacker
  DISABLE_IMPLIED_SRCB_FMT = 3,
  SRCA_SET = 5,                 // 4: THCON_SEC0_DEST counts
  CLR_DVALID = 7,               // whether clearing a bank is off
  ADDR_MOD_AB_SEC0 = 12,        // address modifiers: SrcA, SrcB
  ADDR_MOD_DST_SEC0 = 28,       // Dst, fidelity phase
  ADDR_MOD_PACK_SEC0 = 37,
  UNPACK_MISC_CFG = 41,         // contexts
  ADDR_MOD_BIAS_SEC0 = 47,
};

// A network interface's request initiator, NIU(initiator, register): remote and local mean a read's; a write's are the
// other way round.
enum {
  TARG_ADDR_LO = 0x00, // remote address
  TARG_ADDR_MID = 0x04,
  TARG_ADDR_HI = 0x08, // remote coordinates
  RET_ADDR_LO = 0x0C,  // local address
  RET_ADDR_MID = 0x10,
  RET_ADDR_HI = 0x14,  // local coordinates
  PACKET_TAG = 0x18,   // transaction id << 10
  NOC_CTRL = 0x1C,
  AT_LEN_BE = 0x20,    // bytes, or which atomic
  AT_DATA = 0x28,      // what is added
  CMD_CTRL = 0x40,     // 1 sends, 0 when it is accepted
};
enum { CTRL_READ = 0x10, CTRL_ATOMIC = 1, CTRL_WRITE = 2, CTRL_ACK = 1 << 4, CTRL_CAST = 1 << 5, CTRL_PATH_RESERVE = 1 << 8, CTRL_CAST_SELF = 1 << 17 };
enum { AT_INCREMENT = 0x107C }; // a word, all of its 32 bits; the old one comes back
#define NIU_0 0xFFB20000u
#define NIU_1 0xFFB30000u
enum {
  NIU_CFG_0 = 0x100, // bit 0: clock gating
  ROUTER_CFG_0 = 0x104,
  NOC_ID_LOGICAL = 0x148,    // translated coordinates
  WR_ACK_RECEIVED = 0x204,   // write acknowledgements
  REQS_OUTSTANDING = 0x240,  // of transaction id 0, by words on
};

#define DEST_CG_CTRL 0xFFB12240u         // clock gating of Dst
#define TDMA_REG_CLK_GATE_EN 0xFFB11024u // of the movers
#define WALL_CLOCK_0 0xFFB121F0u
#define INSTRN_BUF 0xFFE40000u           // a store is an instruction of this thread
#define PC_BUF_SYNC 0xFFE80004u          // a load comes back when this thread's instructions are done
#define TENSIX_CFG 0xFFEF0000u
#endif
