// Darwin declares `mach_task_self_` as a variable, which Swift 6 takes for shared state
@preconcurrency import Darwin

/// Memory of this process as iOS counts it: what decides whether the app is ended.
public enum ProcessMemory {
    /// Bytes now and at their highest; nil if the system does not say.
    public static func now() -> (footprint: UInt64?, peak: UInt64?) {
        var info = task_vm_info_data_t()
        let words = MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size
        var count = mach_msg_type_number_t(words)
        let status = withUnsafeMutablePointer(to: &info) { pointer in
            pointer.withMemoryRebound(to: integer_t.self, capacity: words) { integers in
                task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), integers, &count)
            }
        }
        guard status == KERN_SUCCESS else { return (nil, nil) }
        return (info.phys_footprint, UInt64(max(info.ledger_phys_footprint_peak, 0)))
    }
}
