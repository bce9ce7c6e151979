/* Makes a newer x86 processor look like one without instruction sets beyond AVX2, if preloaded (see avx2_machine.py).
 *
 * Libraries choose their code by the instruction CPUID. Linux makes it trap (arch_prctl ARCH_SET_CPUID, on processors
 * with the flag cpuid_fault); the handler below runs it and takes the bits of AVX-512, AVX-VNNI, AVX10, APX and AMX out
 * of the answer. Threads and forks inherit the trap. A new program gets it from its own preloaded copy.
 *
 * XGETBV does not trap: it still reports that the system saves AVX-512's registers, but programs that use it ask CPUID
 * too. The C library chooses its memcpy before this runs; GLIBC_TUNABLES controls that. A program that sets its own
 * handler of SIGSEGV (Python's faulthandler) dies at its next CPUID.
 */

#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(index) (UINT32_C(1) << (index))

typedef struct {
    uint32_t a, b, c, d;
} registers;

/* Leaf 7: instruction sets. Bits as in Intel's manual, volume 2, CPUID. */
static const registers kInstructions = {
    .b = BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31), /* AVX-512 F DQ IFMA PF ER CD BW VL */
    .c = BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14),            /* AVX-512 VBMI VBMI2 VNNI BITALG VPOPCNTDQ */
    .d = BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25), /* AVX-512 4VNNIW 4FMAPS VP2INTERSECT FP16, AMX */
};
/* Leaf 7, subleaf 1. */
static const registers kMoreInstructions = {
    .a = BIT(4) | BIT(5) | BIT(21) | BIT(23),           /* AVX-VNNI, AVX-512 BF16, AMX FP16, AVX-IFMA */
    .d = BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19) | BIT(21), /* AVX-VNNI INT8, NE-CONVERT, AMX COMPLEX, VNNI INT16, AVX10, APX */
};
/* Leaf 13: registers that the system can save: AVX-512's masks and registers, AMX's tiles, APX's. */
static const uint32_t kStates = BIT(5) | BIT(6) | BIT(7) | BIT(17) | BIT(18) | BIT(19);

static struct sigaction others; /* the previous handler of SIGSEGV */

/* arch_prctl without the C library, because a signal handler must not change errno. */
static long trap_cpuid(int on) {
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"((long)SYS_arch_prctl), "D"((long)ARCH_SET_CPUID), "S"((long)!on)
                     : "rcx", "r11", "memory");
    return result;
}

static void hide(registers* r, const registers* bits) {
    r->a &= ~bits->a, r->b &= ~bits->b, r->c &= ~bits->c, r->d &= ~bits->d;
}

static registers answer(uint32_t leaf, uint32_t subleaf) {
    registers r;
    trap_cpuid(0);
    __cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
    trap_cpuid(1);
    if (leaf == 7 && subleaf == 0) hide(&r, &kInstructions);
    if (leaf == 7 && subleaf == 1) hide(&r, &kMoreInstructions);
    if (leaf == 13 && subleaf == 0) r.a &= ~kStates;
    const int hidden_state = leaf == 13 && subleaf > 1 && subleaf < 32 && (kStates & BIT(subleaf));
    /* 29 and 30: AMX's tiles; 36: AVX10's versions. */
    if (hidden_state || leaf == 29 || leaf == 30 || leaf == 36) memset(&r, 0, sizeof r);
    return r;
}

static void on_fault(int number, siginfo_t* info, void* context) {
    greg_t* at = ((ucontext_t*)context)->uc_mcontext.gregs;
    static const unsigned char kCpuid[] = {0x0f, 0xa2};
    /* A trapped instruction has the code SI_KERNEL. Its bytes can be read, because the processor has just read them. */
    if (info->si_code == SI_KERNEL && memcmp((const void*)at[REG_RIP], kCpuid, sizeof kCpuid) == 0) {
        const registers r = answer((uint32_t)at[REG_RAX], (uint32_t)at[REG_RCX]);
        at[REG_RAX] = r.a, at[REG_RBX] = r.b, at[REG_RCX] = r.c, at[REG_RDX] = r.d;
        at[REG_RIP] += sizeof kCpuid;
    } else if (others.sa_flags & SA_SIGINFO) {
        others.sa_sigaction(number, info, context);
    } else if (others.sa_handler != SIG_DFL && others.sa_handler != SIG_IGN) {
        others.sa_handler(number);
    } else {
        signal(SIGSEGV, SIG_DFL); /* the faulting instruction runs again, and ends the process */
    }
}

__attribute__((constructor)) static void start(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    static const char kRefused[] = "avx2_machine: this system does not let a process trap CPUID\n";
    if (sigaction(SIGSEGV, &action, &others) != 0 || trap_cpuid(1) != 0) {
        (void)!write(STDERR_FILENO, kRefused, sizeof kRefused - 1);
        _exit(3);
    }
}
