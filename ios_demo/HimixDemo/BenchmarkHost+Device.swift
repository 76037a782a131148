import Foundation
import HimixCore
import HimixCoreML
import UIKit

extension BenchmarkHost {
    /// This device, and how it is doing. `command`: what was pressed, for the record.
    @MainActor
    static func current(command: String) -> BenchmarkHost {
        let (device, process) = (UIDevice.current, ProcessInfo.processInfo)
        device.isBatteryMonitoringEnabled = true
        let version = Bundle.main.object(forInfoDictionaryKey: "CFBundleShortVersionString") as? String ?? "?"
        let facts = Record.Device(
            name: modelIdentifier, kind: device.userInterfaceIdiom == .pad ? "tablet" : "phone",
            os: "\(device.systemName) \(device.systemVersion)", architecture: "arm64", threads: process.processorCount,
            memoryBytes: process.physicalMemory)
        return BenchmarkHost(
            device: facts, command: command, harness: "himix iOS demo \(version)",
            versions: ["Core ML": process.operatingSystemVersionString],
            memory: {
                let (footprint, peak) = ProcessMemory.now()
                return (now: footprint, peak: peak)
            },
            reading: { await reading() },
            keepAwake: { await keepAwake($0) })
    }

    /// "iPhone17,1": Apple's own name of the model, which does not depend on the owner.
    private static var modelIdentifier: String {
        var info = utsname()
        uname(&info)
        return withUnsafeBytes(of: &info.machine) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
    }

    @MainActor
    private static func keepAwake(_ awake: Bool) { UIApplication.shared.isIdleTimerDisabled = awake }

    @MainActor
    private static func reading() -> Record.Reading {
        let device = UIDevice.current
        let level = device.batteryLevel < 0 ? nil : Double(device.batteryLevel) * 100
        let charging = device.batteryState == .unknown ? nil : device.batteryState != .unplugged
        let thermal: String =
            switch ProcessInfo.processInfo.thermalState {
            case .nominal: "nominal"
            case .fair: "fair"
            case .serious: "serious"
            case .critical: "critical"
            @unknown default: "unknown"
            }
        return Record.Reading(
            batteryPercent: level, charging: charging, thermalState: thermal,
            lowPower: ProcessInfo.processInfo.isLowPowerModeEnabled)
    }
}
