"""The words by which people name a series, in the languages of the character sets that we read.

They stand in one table with its source.

Rules for this table:
1. A row is a concept, a language (ISO 639-1, "*" for names used everywhere), its words, and where they come
   from (`SOURCES`).
2. Words stand as `words.normalise` leaves them: lower case, without accents, full-width forms folded, blanks
   between tokens.
3. "word" is a whole token, "stem*" a token that begins so, "*stem*" any token that holds it. Chinese,
   Japanese, Korean and Arabic words match anywhere, because those scripts set no blanks between words or join
   articles to them.
4. Words are the last witness. What they say is used only where the physics is silent, or noted where it
   contradicts the physics.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCES = {
    "vendor": (
        "sequence and protocol names in the vendors' public protocol books and in headers of public data sets"
    ),
    "field": "public field reports (dcm2niix, dicom2nifti, Dcm2Bids, ExploreASL, medInria)",
    "label": (
        "names of gadolinium agents and the words for contrast medium in European product "
        "information (SmPC, package leaflet)"
    ),
    "term": (
        "terms of radiology textbooks and reports in that language, collected by hand; no "
        "nomenclature was copied"
    ),
}


@dataclass(frozen=True)
class Term:
    """The words of one concept in one language."""

    concept: str
    language: str
    words: tuple[str, ...]
    source: str


def _rows(concept: str, source: str, **languages: str) -> tuple[Term, ...]:
    """Return one row a language; words are separated by commas, the language "any" stands for all."""
    return tuple(
        Term(
            concept,
            "*" if language == "any" else language,
            tuple(word.strip() for word in words.split(",")),
            source,
        )
        for language, words in languages.items()
    )


VOCABULARY: tuple[Term, ...] = (
    # Weightings.
    *_rows(
        "t1",
        "vendor",
        any=(
            "t1*, 3dt1*, ct1*, mprage*, mp rage, bravo, spgr, fspgr, mp2rage*, memprage, tfl3d*, "
            "3d tfe, vibe*, thrive*, lava*, fl3d*"
        ),
    ),
    *_rows("t1", "term", zh="t1加权, t1加權", ja="t1強調", ko="t1강조"),
    *_rows("t2", "vendor", any="t2*, st2*, 3dt2*, ft2*"),
    *_rows("pd", "vendor", any="pd, pdw, proton density, dp"),
    *_rows("flair", "vendor", any="*flair*, dark fluid*, darkfluid*, *fluid attenuat*"),
    *_rows(
        "flair",
        "term",
        ru="флаир, флэир",
        zh="压水, 抑水, 水抑制, 液体衰减, 液體衰減",
        ja="水抑制, フレア",
        ko="플레어, 수분억제",
        tr="sivi baskili",
    ),
    # Contrast agent.
    *_rows(
        "agent",
        "vendor",
        any=(
            "gad, gd, ce, cet1*, ct1, ct1w, t1ce*, t1c, t1gd*, gdt1*, po cm, met cm, z cm, with "
            "cm, agentplus, postgd, postgad, dce, ceflair"
        ),
    ),
    *_rows(
        "agent",
        "label",
        any="gado*, gadav*, gadov*, dotarem*, clariscan*, magnevist*, prohance*, omniscan*, multihance*, "
        "primovist*, eovist*, elucirem*, vueway*, dota, magnegita*, artirem*, optimark*",
    ),
    *_rows(
        "agent",
        "term",
        en="contrast, contrasted, enhanced, enhancement, injection, injected",
        de="km, kontrast*, kmgabe, kontrastmittel*",
        fr="produit de contraste, contraste, injection, injecte*, inj, ivg, pdc, gado",
        es="contraste, gadolinio, civ, cte, inyeccion, inyectado",
        it="mdc, mezzo di contrasto, contrasto, contrastografic*, gadolinio",
        pt="contraste, gadolinio, gadolineo, injecao, injetado",
        nl="contrast, contrastmiddel, contrastvloeistof",
        pl="kontras*, srodek kontrastowy, gadolin*, wzmocnieni*",
        tr="kontrast*, opak, ilacli, ivkm, kontrastli",
        sv="kontrast*",
        da="kontrast*, kontraststof",
        ru="контраст*, гадолини*, ку, кв, усилени*, магневист*, гадовист*, омнискан*, дотарем*",
        ja="造影, 造影剤, 増強, ガドリニウム, ガド",
        zh="增强, 增強, 对比剂, 對比劑, 造影剂, 顯影劑, 显影剂, 强化, 钆, 釓, 打药, 打藥",
        ko="조영제, 조영증강, 조영, 증강, 가돌리늄",
        ar="صبغه, صبغة, تباين, حقن, مادة التباين, جادولينيوم",
    ),
    *_rows("after", "term", any="post, postc, postcontrast, post contrast, postkm, postgado"),
    # Words before the agent's that deny it, and what denies it alone.
    *_rows(
        "denial before",
        "term",
        en="no, non, not, without, wo, w o, before, sans, minus, pre, nil, none",
        de="ohne, kein, keine, vor, o",
        fr="sans, avant, ss, pas de",
        es="sin, antes, previo, pre",
        it="senza, prima, no, pre",
        pt="sem, antes, nao, pre",
        nl="zonder, voor, geen",
        pl="bez, przed",
        tr="oncesi",
        sv="utan, fore, ej",
        da="uden, for, ej",
        ru="без, до, перед",
        ja="非, 無, 未",
        zh="无, 無, 未, 非, 不",
        ko="비, 무",
        ar="بدون, قبل, لا, دون, بلا",
    ),
    *_rows(
        "denial after",
        "term",
        en="negative, off, free, minus, none, no",
        tr="oncesi, once, yok, siz",
        ja="前, なし, 無し, ナシ",
        zh="前",
        ko="전, 없이, 없음, 안함",
        ru="нет",
    ),
    *_rows(
        "plain",
        "term",
        en=(
            "pre, agentminus, plain, unenhanced, nonenhanced, noncontrast, noncon, nce, "
            "precontrast, pregad, pregd, nogad, nocontrast, wocontrast"
        ),
        de="nativ*, nativaufnahme",
        fr="natif, native",
        es="simple",
        it="basale, diretta, smdc",
        pt="nativo",
        nl="blanco",
        pl="natywn*",
        tr="kontrastsiz*, ilacsiz*",
        sv="nativ*",
        da="nativ*, kontrastfri",
        ru="нативн*, бесконтраст*",
        ja="単純, 造影前, 造影なし, 造影剤なし, 非造影, 無造影, 未造影, プレ",
        zh="平扫, 平掃, 增强前, 增強前, 未增强, 未增強, 非增强, 无增强, 無增強, 无对比剂, 無對比劑, 造影前, 无造影剂",
        ko="조영전, 조영 전, 조영증강전, 조영증강 전, 조영제 전, 비조영, 비증강, 조영제 없이, 조영제없이, 증강전, 증강 전",
        ar=(
            "بدون صبغة, بدون صبغه, بدون تباين, بدون حقن, قبل الصبغة, قبل الحقن, قبل التباين, "
            "بدون مادة التباين"
        ),
    ),
    # Both at once says nothing of one series.
    *_rows(
        "with and without",
        "term",
        any="agentboth, w wo, wwo, w and wo, with without, wo w",
        en=(
            "with and without, without and with, pre and post, pre post, before and after, w and "
            "w o, w o and w, w w o, wo and w"
        ),
        de="mit und ohne, ohne und mit, ohne mit, mit ohne, vor und nach, nativ und",
        fr="avec et sans, sans et avec, sans puis avec, avant et apres, sans avec",
        es="con y sin, sin y con, antes y despues, sin con, con sin",
        it="con e senza, senza e con, prima e dopo, senza con",
        pt="com e sem, sem e com, antes e depois, antes e apos, sem com",
        nl="met en zonder, zonder en met, voor en na",
        pl="z i bez, bez i z, przed i po",
        tr="oncesi ve sonrasi, kontrastli ve kontrastsiz",
        sv="med och utan, utan och med, fore och efter",
        da="med og uden, uden og med, for og efter",
        ru="с и без, без и с, до и после",
        ja="造影前後, 単純造影",
        zh="平扫增强, 平扫及增强, 平扫加增强, 平掃增強, 增强前后, 平扫 增强",
        ko="조영 전후, 조영전후, 조영 전 후",
        ar="قبل وبعد, مع وبدون, بدون ومع",
    ),
    # Other uses of the words for contrast and for after.
    *_rows(
        "no agent meant",
        "term",
        any="phase contrast, phasecontrast, contrast phase, post op, postop*, post surg*, post stroke, "
        "post lysis, post treat*, post rt, post rx, post tx, post chemo*, post trauma*, post proc*, "
        "postproc*, post operat*, post radi*, post process*, post ictal, post partum, post thromb*, "
        "pre op, preop*, pre surg*, pre treat*, pre stroke, pre rt, pre operat*, image enhanced, "
        "detail enhanced, edge enhanced, edge enhancement, enhanced mr, susceptibility contrast, "
        "tissue contrast, contrast enhanced false",
        de="phasenkontrast*, post ischam*",
        fr="contraste de phase, post op, post avc",
        es="contraste de fase, post quirurg*, post operatori*",
        it="contrasto di fase, post operatori*, post chirurg*",
        pt="contraste de fase, pos operatori*, pos avc, pos cirurg*",
        nl="fasecontrast, fase contrast",
        pl="kontrast fazy, kontrastu fazy",
        tr="faz kontrast*",
        sv="faskontrast",
        da="fasekontrast",
        ru="фазовый контраст, фазово контраст*, фазоконтраст*",
        ja="血管造影, 位相コントラスト, 関節造影, 脊髄造影",
        zh="血管造影, 相位对比, 相位對比, 脑血管造影",
        ko="혈관조영, 혈관 조영, 위상대조",
        ar="تباين الطور",
    ),
    # What is neither T1 nor FLAIR of a head.
    *_rows(
        "localizer",
        "vendor",
        any="localizer*, localiser*, localiz*, localis*, loc, locs, loca, scout*, *scout, survey*, 3 "
        "plane*, 3plane*, three plane*, 3 pl, smart brain*, smartbrain*, pilot*, aahead*, 3plloc*, "
        "plan scan, planscan, topogram*, surview, scanogram*, auto align, autoalign, locator, "
        "isocenter*, isocentre*, tri plane*, triplane*, 3 axis, quick scan, positioning",
    ),
    *_rows(
        "localizer",
        "term",
        de="lokalisator*, lokalizer*, lokaliser*, ubersicht*, uebersicht*, planung*, planungs*",
        fr="localisateur*, reperage*, repere*, centrage, localisation",
        es="localizador*, localizacion, planificacion, explorador, topograma",
        it="localizzator*, centratura, scout, posizionamento, centraggio",
        pt="localizador*, localizacao, planejamento, planeamento",
        nl="lokalisatie*, overzicht*, localisatie*, planning",
        pl="lokalizator*, lokaliz*, planowanie, topogram*",
        tr="lokalizer*, lokalizator*, kilavuz*, yerlestirme, planlama, pilot",
        sv="lokalisator*, oversikt*, planering*",
        da="lokalisator*, oversigt*, planlaegning*, lokaliser*",
        ru="локалайзер*, локализатор*, топограмм*, разметка, скаут*, обзорн*, пилот*",
        ja="位置決め, ロケータ, ロカライザ, スカウト",
        zh="定位, 定位像, 定位图, 定位圖",
        ko="위치결정, 로컬라이저, 정위, 위치잡기, 스카우트",
        ar="تحديد الموقع, محدد الموقع, تحديد موقع, استطلاع, تخطيط",
    ),
    *_rows(
        "calibration",
        "vendor",
        any="calibration*, cal, cal head, ref scan, ref head, refscan, sense ref*, clear ref*, "
        "senserefscan, field map*, fieldmap*, fieldmapping, b0 map*, b1 map*, b1map*, b0map*, shim*, "
        "coil sens*, asset cal*, prescan, prescannorm*, coil survey*, noise scan, qa, biascorr ref*, "
        "noisescan",
    ),
    *_rows(
        "calibration",
        "term",
        de="kalibrier*, feldkarte",
        fr="calibrage, etalonnage, carte de champ",
        es="calibracion*",
        it="calibrazione",
        pt="calibracao",
        nl="kalibratie",
        pl="kalibrac*",
        tr="kalibrasyon",
        sv="kalibrering",
        da="kalibrering",
        ru="калибров*",
        ja="キャリブレーション, 校正",
        zh="校准, 校準, 匀场",
        ko="보정용, 교정",
        ar="معايرة",
    ),
    *_rows(
        "angiography",
        "vendor",
        any="tof*, *tof, 3dtof*, 2dtof*, mra, mrv, mra*, ce mra, angio*, *angio, inflow*, s3di*, 3di mc*, "
        "ti3d*, inhance*, quiss, trance, native space, fbi, fsbb mra, pca, pca3d*, pc mra, pcmra, "
        "3dpc, 2dpc, pc3d*, pc2d*, phase contrast, phasecontrast, velocity, venc*, flow encod*, qflow, "
        "q flow, twist, tricks, 4d trak, venography, venous, pc ven*, pc art*, pc 3d*, pc 2d*, "
        "venogra*, veno, willis, cow, carotid*, vibe angio, time of flight, timeofflight, mrangio*, "
        "haste angio, mip, mips, mip*, vwi, vessel wall",
    ),
    *_rows(
        "angiography",
        "term",
        de="gefass*, gefaess*, angiografie*, angiographie*, venografie*, phasenkontrast*, hirnarterien",
        fr="arm, angiographie*, angio irm, polygone, contraste de phase, temps de vol, veineuse, arteriel*",
        es=(
            "angiografia*, angioresonancia, angio rm, angiorm, arteriografia, contraste de fase, "
            "tiempo de vuelo, flebografia, venografia"
        ),
        it="angiografia*, angio rm, angiorm, contrasto di fase, tempo di volo, venosa, arterios*",
        pt="angiografia*, angiorm, angio rm, angioressonancia, contraste de fase, tempo de voo, venografia",
        nl="angiografie*, fasecontrast, vaten, bloedvaten",
        pl="angiografi*, naczyn*, tetnic*, zylna",
        tr="anjiyo*, anjio*, venografi*, faz kontrast*, damar*",
        sv="angiografi*, karl*, faskontrast",
        da="angiografi*, kar, fasekontrast",
        ru=(
            "ангио*, мра, мрв, вр пролет*, времяпролет*, венограф*, фазово контраст*, "
            "фазоконтраст*, сосуд*, артери*"
        ),
        ja="血管, アンギオ, 静脈, 動脈, 位相コントラスト",
        zh="血管, 静脉, 靜脈, 动脉, 動脈, 相位对比, 时间飞跃, 時間飛躍",
        ko="혈관, 정맥, 동맥, 위상대조",
        ar="الأوعية, اوعية, أوعية, الاوعية, شرايين, الشرايين, أوردة, الأوردة, وعائي, تصوير الاوعية",
    ),
    *_rows(
        "diffusion",
        "vendor",
        any="dwi*, dw, *dwi, adc*, *adc, dti*, diff, diffusion*, trace, tracew*, *tracew, resolve, b1000*, "
        "b0, b500, b2000*, fa map, colfa, ivim, dki, dsi, noddi, tensor*, fractional aniso*, eadc, "
        "isodwi, cdwi, zoomit diff*, hardi, msdwi",
    ),
    *_rows(
        "diffusion",
        "term",
        de="diffusion*",
        fr="diffusion*, diff",
        es="difusion*",
        it="diffusion*, diff",
        pt="difusao*, difusion*",
        nl="diffusie*",
        pl="dyfuzj*, dyfuzyjn*",
        tr="difuzyon*, diffuzyon*, difuzy*",
        sv="diffusion*",
        da="diffusion*",
        ru="диффуз*, дви, дти, икд, ди",
        ja="拡散",
        zh="弥散, 彌散, 扩散, 擴散",
        ko="확산",
        ar="انتشار, الانتشار",
    ),
    *_rows(
        "perfusion",
        "vendor",
        any="perf, perf*, perfusion*, *perf, pwi, asl, *asl, pcasl*, pasl*, casl*, dsc*, dce*, cbf*, cbv*, "
        "rcbv*, rcbf*, mtt*, ttp, tmax, ktrans*, dynasusc*, dynamic*, dyn, first pass",
    ),
    *_rows(
        "perfusion",
        "term",
        de="perfusion*, dynamisch*",
        fr="perfusion*, dynamique",
        es="perfusion*, dinamic*",
        it="perfusion*, dinamic*",
        pt="perfusao*, dinamic*",
        nl="perfusie*, dynamisch*",
        pl="perfuzj*, perfuzyjn*, dynamiczn*",
        tr="perfuzyon*, dinamik",
        sv="perfusion*, dynamisk*",
        da="perfusion*, dynamisk*",
        ru="перфуз*, динамич*",
        ja="灌流, パーフュージョン, 潅流, ダイナミック",
        zh="灌注, 动态, 動態",
        ko="관류, 역동",
        ar="تروية, التروية, نضح",
    ),
    *_rows(
        "susceptibility",
        "vendor",
        any="swi*, *swi, swan*, swip*, swp, swap, susc, suscept*, qsm*, qsm, t2star*, t2 star*, t2s, r2s, "
        "r2star*, r2 star, r2*, gre t2*, hemo*, heme*, haemo*, hemoflash, medic, merge, mmerge, "
        "venbold, fsbb, bsi, esswan, eswan, t2 ffe*, t2ffe*, mag images, pha images, mip images, "
        "minip, mnip, bold, t2w ffe, ffe t2*, qfl*",
    ),
    *_rows(
        "susceptibility",
        "term",
        de="suszeptib*, hamo*, haemo*, blutung*, eisen",
        fr="susceptib*, hemosider*, t2 etoile, etoile, hemorragi*",
        es="suscept*, hemosider*, t2 estrella, eco gradiente t2*, hemorrag*",
        it="suscett*, emosider*, emo",
        pt="suscet*, suscept*, hemossider*, t2 estrela",
        nl="susceptib*, gevoeligheid*, bloeding*",
        pl="podatnos*, susceptib*, krwotok*",
        tr="duyarlilik*, suseptib*, susept*, kanama*",
        sv="susceptib*, blodning*",
        da="susceptib*, blodning*",
        ru="восприимчив*, сви, гемо*, магнитной воспр*",
        ja="磁化率, 出血",
        zh="磁敏感, 磁敏, 磁化率, 出血",
        ko="자화율, 자기감수, 출혈",
        ar="الحساسية, الحساسيه, القابلية المغناطيسية, حساسية, نزف",
    ),
    *_rows(
        "magnetisation transfer",
        "vendor",
        any=(
            "mt, mtc, mtr, mton, mtoff, mt on, mt off, ihmt*, cest, apt, aptw, magnetization "
            "tr*, magnetisation tr*, mtsat, mtw"
        ),
    ),
    *_rows(
        "magnetisation transfer",
        "term",
        de="magnetisierungstr*",
        fr="transfert d aimant*, transfert d'aimant*, transfert de magnet*, transfert aimant*",
        es="transferencia de magnet*, transferencia magnet*",
        it="trasferimento di magnet*, trasferimento della magnet*",
        pt="transferencia de magnet*",
        nl="magnetisatieover*, magnetisatie over*",
        pl="transfer magnet*, transfer* magnet*, transferu magnet*",
        tr="manyetizasyon tr*, magnetizasyon tr*",
        sv="magnetiseringsov*, magnetisationsov*",
        da="magnetiseringsov*, magnetisationsov*",
        ru="перенос намагн*, переноса намагн*, перенос* намагн*",
        ja="磁化移動, 磁化移行",
        zh="磁化传递, 磁化轉移, 磁化转移, 磁化傳遞",
        ko="자화전이, 자화 전이, 자화전달",
        ar="نقل المغنطة, انتقال المغنطة, نقل التمغنط",
    ),
    *_rows(
        "other inversion",
        "vendor",
        any="dir, 3ddir, space dir, double inv*, double ir*, doubleir, stir*, *stir, tirm stir, psir*, "
        "phase sensitive*, fgatir*, wmn, wmnull*, white matter null*, gmn, gray matter null*, grey "
        "matter null*, inv1*, inv2*, inv 1, inv 2, first inv*, second inv*, wair, gwair",
    ),
    *_rows(
        "map",
        "vendor",
        any=(
            "t1 map*, t1map*, t2 map*, t2map*, r1 map, r2 map, mp2rage t1 images, mp2rage t1, pd "
            "map, qmap*, parametric*, colou*r, quant*, relaxom*, wip t1map*, mapit, look locker, "
            "molli, t1rho*"
        ),
    ),
    *_rows(
        "map",
        "term",
        de="parameterkarte*, t1 karte*",
        fr="cartographie*, carte t1",
        es="mapa*",
        it="mappa*",
        pt="mapa*",
        ru="карта*, т1 карт*",
        zh="定量",
        ja="マップ, マッピング",
        ko="지도, 맵",
    ),
    *_rows("subtraction", "vendor", any="sub, subtr*, subtraction*, subtracted, sub post"),
    *_rows(
        "subtraction",
        "term",
        de="subtraktion*, subtrak*",
        fr="soustraction*",
        es="sustraccion*, substraccion*, resta",
        it="sottrazion*",
        pt="subtracao*",
        nl="subtractie*",
        pl="subtrakcj*, odejmowan*",
        tr="subtraksiyon*, cikarma",
        sv="subtraktion*",
        da="subtraktion*",
        ru="субтракц*, вычитан*",
        ja="差分, サブトラクション",
        zh="减影, 減影, 剪影",
        ko="감산, 차감",
        ar="طرح",
    ),
    *_rows(
        "functional", "vendor", any="fmri*, rsfmri*, bold, resting state*, rest bold, task bold, epi, epi*"
    ),
    *_rows("spectroscopy", "vendor", any="spectro*, mrs, csi, svs, press 35, press 144, mrsi, naa"),
    *_rows(
        "balanced",
        "vendor",
        any=(
            "fiesta*, ciss, truefi*, true fi*, trufi*, trufisp, bssfp, ssfp, b ffe, bffe, btfe, "
            "b tfe, balanced, xeta fiesta, dess, true ssfp"
        ),
    ),
    *_rows(
        "synthetic",
        "vendor",
        any="synthetic*, synth*, symri*, sy mri, magic, syn, mdme, synmri*, syntac, synthsr, qalas",
    ),
    *_rows(
        "synthetic",
        "term",
        de="synthetisch*",
        fr="synthetique*",
        es="sintetic*",
        it="sintetic*",
        pt="sintetic*",
        ru="синтетич*",
        zh="合成",
        ja="合成",
        ko="합성",
    ),
    # Dixon and MP2RAGE: which of the images of one acquisition this one is.
    *_rows(
        "dixon",
        "vendor",
        any="dixon*, *dixon, mdixon*, flex, ideal*, lava*, wfs, wfi, fatsep*, 2pt, iq dixon, wfop",
    ),
    *_rows(
        "fat image",
        "vendor",
        any="fat, fat only, fatonly, fett, graisse, grasa, grasso, gordura, vet, fatimage, 脂肪, 지방, жир",
    ),
    *_rows("water image", "vendor", any="water, wateronly, water only, wasser, eau, agua, acqua, 水"),
    *_rows(
        "opposed phase",
        "vendor",
        any="opp, opposed, opposed phase, out phase, outphase, out of phase, opp phase, op phase, oop",
    ),
    *_rows("in phase", "vendor", any="in phase, inphase, inp, in ph"),
    *_rows("uniform", "vendor", any="uni, uni images, uniform images, uniden, uni den"),
    *_rows("denoised", "vendor", any="uniden*, uni den*, denoised, den, dn, rd, robust"),
    *_rows(
        "reformat",
        "vendor",
        any=(
            "mpr, *mpr, mpr1, mpr2, mprs, reformat*, reconstruction, rekonstruktion*, mpr tra, "
            "mpr cor, mpr sag, rfmt, reform*, vr, rpr"
        ),
    ),
    # Body parts.
    *_rows(
        "other part",
        "term",
        any="knee, spine, shoulder, ankle, hip, pelvis, prostate, liver, breast, cardiac, wrist, elbow, "
        "lumbar, phantom, cspine, lspine, tspine, c spine, l spine, t spine, cervical, thoracic, "
        "sacrum, abdomen, foot, femur, chest, heart, hand, calf, thigh, neck, brachial*, testphantom",
        de=(
            "knie*, wirbelsaule*, wirbelsaeule*, hws, bws, lws, schulter*, sprunggelenk*, "
            "hufte*, huefte*, becken*, prostata*, leber*, mamma*, handgelenk*, ellenbogen*, "
            "fuss*, hals"
        ),
        fr=(
            "genou*, rachis*, epaule*, cheville*, hanche*, bassin, foie, sein, poignet*, coude*, "
            "pied, abdomen, coeur, cou"
        ),
        es=(
            "rodilla*, columna*, hombro*, tobillo*, cadera*, higado, mama, muneca*, codo, pie, "
            "abdomen, corazon, cuello, lumbar"
        ),
        it=(
            "ginocchio*, rachide*, colonna, spalla*, caviglia*, anca, bacino, fegato, mammella, "
            "polso, gomito, piede, addome, cuore, collo"
        ),
        pt=(
            "joelho*, coluna*, ombro*, tornozelo*, quadril*, figado, punho, cotovelo, abdome*, "
            "coracao, pescoco, bacia"
        ),
        nl="knie*, wervelkolom*, schouder*, enkel*, heup*, bekken*, lever, pols, elleboog, voet, buik, hals",
        pl="kolan*, kregoslup*, bark, biodro*, miednic*, watrob*, nadgarst*, lokiec, brzuch*, szyj*",
        tr=(
            "diz, omurga*, omuz*, kalca*, pelvis, karaciger*, meme, bilek, dirsek, ayak, boyun, "
            "servikal, lomber"
        ),
        sv="kna, rygg*, axel, hoft*, backen, lever, handled, armbage, fot, buk, hals*, halsrygg*, landrygg*",
        da="knae, rygsoj*, skulder*, hofte*, baekken*, lever, handled, albue, fod, hals*, laende*",
        ru="колен*, позвоноч*, плеч*, бедр*, таз*, печен*, молочн*, шейн*, поясничн*, грудн*, сустав*, стоп*",
        ja="膝, 脊椎, 腰椎, 頚椎, 頸椎, 胸椎, 肩, 股関節, 骨盤, 前立腺, 肝臓, 乳房, 手関節, 足関節, 腹部",
        zh="膝, 脊柱, 腰椎, 颈椎, 頸椎, 胸椎, 肩关节, 肩關節, 髋, 骨盆, 前列腺, 肝, 乳腺, 腕关节, 踝, 腹部",
        ko="무릎, 척추, 요추, 경추, 흉추, 어깨, 골반, 전립선, 유방, 손목, 발목, 복부",
        ar="الركبة, ركبة, العمود الفقري, كتف, الكتف, الحوض, البروستات, الكبد, الثدي, القلب, البطن",
    ),
    *_rows(
        "head",
        "term",
        any=(
            "head*, brain*, cranial*, crani*, skull, neuro*, cereb*, stroke, whole body, orbit*, pituit*, iac"
        ),
        de="kopf*, schadel*, schaedel*, hirn*, gehirn*, cct",
        fr="cerveau, crane*, encephal*, tete, cerebr*",
        es="craneo, cerebr*, cabeza, encefal*",
        it="cranio, encefalo, cervello, testa, cerebr*",
        pt="cranio, encefalo, cerebr*, cabeca",
        nl="hoofd*, hersen*, schedel*",
        pl="glow*, mozg*, czaszk*",
        tr="beyin*, kafa*, kranyal*, bas",
        sv="huvud*, hjarn*, skalle",
        da="hoved*, hjern*, kranie",
        ru="голов*, мозг*, череп*, краниальн*",
        ja="頭部, 脳, 頭",
        zh="头, 頭, 脑, 腦, 颅, 顱",
        ko="뇌, 두부, 머리",
        ar="الدماغ, دماغ, الرأس, الراس, المخ, جمجمة",
    ),
)
"""Every word that selection knows; see the rules above."""
