/// Is a run to be trusted? Invalid: the answers are wrong. Semi-valid: they are right, but the times may not be.
/// The limits are those of `himix bench`.
enum VerdictRules {
    static let spreadLimit = 0.15
    static let overheadLimit = 0.01

    /// - Parameters:
    ///   - sustained: readings of the part without a pause: it may get hot, but not run in Low Power Mode.
    ///   - items: how many items the run took turns with: sample i and i + items are of the same question.
    static func judge(
        selfTestPassed: Bool?, answers: [Record.Answer], readings: [Record.Reading],
        sustained: [Record.Reading] = [], samples: Record.Samples, items: Int, overhead: Double
    ) -> (Record.Verdict, [String]) {
        var wrong = selfTestPassed == false ? ["the bundle's self-test gives another answer on this device"] : []
        for answer in answers where answer.equalRuns < answer.runs {
            let off = answer.runs - answer.equalRuns
            wrong.append("'\(answer.prompt)': \(off) of \(answer.runs) runs answered differently from the first")
        }
        if !wrong.isEmpty { return (.invalid, wrong) }
        var doubts = [String]()
        let hot = readings.compactMap(\.thermalState).filter { $0 == "serious" || $0 == "critical" }
        if let worst = hot.last { doubts.append("the device was hot: its thermal state was \(worst)") }
        if (readings + sustained).contains(where: { $0.lowPower == true }) {
            doubts.append("Low Power Mode was on, which slows the processor; switch it off")
        }
        for (stage, times) in [("ttft", samples.ttft), ("warm_ttft", samples.warmTtft), ("prefill", samples.prefill)] {
            let off = spread(times, period: items)
            if off > spreadLimit {
                doubts.append("\(stage) varies too much: 1 in 10 is off by over \(percent(off)) (limit 15%)")
            }
        }
        if overhead > overheadLimit {
            doubts.append("the harness itself took \(percent(overhead)) of the time (limit 1%)")
        }
        return (doubts.isEmpty ? .valid : .semiValid, doubts)
    }

    /// 90th percentile of how far, as a share, a sample is from its own question's median.
    static func spread(_ samples: [Double], period: Int) -> Double {
        var off = [Double]()
        for first in 0..<period {
            let own = stride(from: first, to: samples.count, by: period).map { samples[$0] }
            guard own.count > 1, let middle = median(own), middle > 0 else { continue }
            off += own.map { abs($0 / middle - 1) }
        }
        return off.isEmpty ? 0 : off.sorted()[Int(0.9 * Double(off.count - 1))]
    }

    private static func percent(_ share: Double) -> String { "\(Int((share * 100).rounded()))%" }
}
