// Declarations of Apple's Darwin that HimixKit uses, in C as in the SDK, for type-checking elsewhere: what is a variable
// there is one here, which Swift 6 refuses without @preconcurrency.
#include <stdint.h>
#include <sys/utsname.h>

typedef uint32_t natural_t;
typedef int32_t integer_t;
typedef int32_t kern_return_t;
typedef natural_t mach_port_t;
typedef mach_port_t task_name_t;
typedef natural_t task_flavor_t;
typedef natural_t mach_msg_type_number_t;
typedef integer_t *task_info_t;

#define KERN_SUCCESS 0
#define TASK_VM_INFO 22

extern mach_port_t mach_task_self_;

struct task_vm_info {
    uint64_t phys_footprint;
    int64_t ledger_phys_footprint_peak;
};
typedef struct task_vm_info task_vm_info_data_t;

kern_return_t task_info(
    task_name_t target_task, task_flavor_t flavor, task_info_t task_info_out,
    mach_msg_type_number_t *task_info_outCnt);
