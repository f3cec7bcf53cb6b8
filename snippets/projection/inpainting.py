"""Fives whose lower halves are hidden, filled in by a linear-Gaussian flow; what steps reach."""

# --8<-- [start:data]
# 122 fives of the UCI digits (E. Alpaydin, C. Kaynak, CC BY 4.0), 8x8 in sixteenths, compressed.
FIVES = (
    "c-rlmhjJu04u+WtFu(uP-Um*Qw6fP_`&_;&yLUBebu$xx0LQt%?aD5c=skDAr4(`rHKgcbx^L~dz2L?_?*04m{fN)!"
    "_lm)X`#kW}TOAjpm7&_R%JX;jaf~tN-gAz<%h~IkefXJumfcHaAUTiPhLj~eCOv%WoKvN%N^7IE8RnJ}T9-Cu%rdmn"
    "<Q!`#@6Q-b>yetJRCQy9=JVL~Q21m?d(xl%Jg#}R%BdoKHR-eODKbZ+-631nT*q#$QTw&Iv0BS&Hbzdzhi8*%QAj(V"
    "d$--sk#pLy;jHQSL&Oapo$&6N8p3N)7J)_|)%iGUbQ+lV(L4-c?M=`9u~c?hL(=WRm}`u6mNJItxb9^o8HzisL~$d?"
    "SgswLUS~$NM%tX3W;(;VpG(f_Y{x#fGju*W)3sjdrPu~Nd#2%{wg%IMzEjvTM*8Tq51G1I1%jb_i!&DjVU>Lg?5xFx"
    "Q%`7gi>|PStX%u*vo>8J)#-`C5W|Yy`7S}5xZ}fasrJ#RMsQG@%EVMDF6km_O03DkkLSMsE*x0o{`wUjjlRnMY1H|@"
    "49`6h+9Bl_Vj8I?tyz0YDd)mEiEGgj;s7$$3t2Gld}6Js!D1%fx{z4JlmVXf<TW`Ky;R;+iuxelC9z#};!+D5YHc;Y"
    "Bkq^3^(i9l(i^}N%z+Xjkl5Sp5ze!I4&BGqiR?+SwVuxnfL8a>>;_;~c@n|8r*TS`wWs}GhF0q9n%0hW3b2mks8TNB"
    "N$R|s``I2aHK^Gi6e~p}K`_0PVrYb2POEF|rbBt(^X*wctH4SkQt}v}e<;kAcTGJ3?rCfxL%Ph6qvVz#Ms`JXc4!5l"
    "EUJrPR4yY-iHV-GbziJeE@`$q%D$Gd*jkpPj67N&uvX!pSg&;y&Fr9$HRjGp#|7iiSv2L8YmAV4V%9XIWu(U6IUOTD"
    "n1G2oS3ql~=TOCjzzbXMwYaEVEP6{YG(_kfp3l)oqK$g}QvCxkU2DyCN=_wCMw8wM$|eIXxcb1Z-!=Ev6ix6~P$+0I"
    "`TWy9?OFBh=lJ{s5DR}X7XKTUgaWNq4<)(=5JysNgpNpL3wu1oNn>Z6ByS7HQu9_zV)a?-9CCNHLX84Kvrcxtv-L9!"
    "HlU_-1Dxh+fN1F{he@D~9_9mV^C=+v6DkQQL+N@!biQQ9R8SE}1(3sVcxdE;il6pwV0ECxi_uV%7o=}Ta~njvud3aR"
    "D5ZzxhLH}G=KNexjytUsM16*O;>nXmv8~KC1YaL}>b-hM4g7dFgFE1Gs>U6w_$o-9)KP0a$_pK~UZzKBY$Cb@d4|R3"
    "z#t-niAu6qM3JtPTL3!^2EJ5?@bWeIuIj~m&qkDpI<;iH6WmBJaLgaY+m*6M&*i5P>)m*k6Q4sUjN7{&eoJiPOXK`6"
    ";w1i2C}j8V^}Fz#6=%x^3MSh%SS=t0a552`w1=G&z9!}r2{z)&6F0eZP>QZ+o=bx+>(J!eFgp&)u~8Oi=yA!W7AE@="
    "GWfwAmnw=`a{Y<4ap9Ps&esfFFZSlT%3&bYlV4D^7f7L%+PxvynDr~!VwN&taK}Mux8e&C$CqTk$-)dPOkwTyX@-)n"
    "v7*Rm!Nhl3nT?*uv#*LPo{#`d!2^q{Vrd7cjsxtZ4%E%+%AHC#<6zQ?bzaiW!#wi?>8xZA&Z77>kf+j|TCm0kG*{+%"
    "KQ!N$rwn!&Q+y;gK9-`%CiI(qQiLd^a;X^T^`fF~dmAU?!zlE2na^x@&a-8l(q_nrXhgNXiBpHEn2#$8V^j}ik^Y!G"
    "dTR^<t!r!B*-E|>uFr4{%$I}*HSY`GYo$_r0{my(@e>J5P-n_Wa$>q~Hu!rC?El&2L;SQH_4CsCPyC1wp&%9xz&Ts3"
    ";0s}3s@0$avCu3(uIwY_Ht7)`TIf+~Y_%gsbW=7!hZx$hAUb7_O#Zsfp%u&DyVVP>K?`1cjmZ$6BDyDs&@p^nCynRa"
    "$2#v8TqqIZmZIHy^7%ZIPQOd<mJF^L)unPQIWSO@Nw0F@u7*gr(6D54F5$pN3?v|@jX-?{ra*1b&4-<cB+muNW&n?w"
    "ap^;H1*3^G4Zu_^2Ti8f-K_Gp$a>t2aSay(i0m!ST$$gV*>d+yUSfIkdgO=}=&V_*q_CC=STcMlEW>hya%#Eqh#lpI"
    "{MbEH`fdqtWaS*7RzD2b;|m0~)7?f3gC!s<RV`+Iuw>Yv!N>>OGE^AHVb39&uP`c(xxqpVLs#38G#E^)izCIk9Zuz^"
    "7_<!9R{8bpvCKitAl_U~V6Dp}K798G38PO=$f}p;GQFDqSJr=<=Hhd`Uu$&}7H`k|kM;d8R?k1_#KPJ>)3-Mz)bZ$D"
    "YWx_9X$_dWxtrHF4|)Gfvx<*5&q5h5%8rvVio4#O>;Shg+bh)V`W(06t3Y^5K_p4>Do2s$J#Z^^$NhaV{o}~y0>>re"
    "pLK?|OCVwre1e!s5Ysf@5hT|@NKq0P1yG8imWP!M#QijTaa0h^2tn*V@8J_d{*G}9pY81+uAiPxH)a9T0hO(YzPM#`"
    "cQ=jTTCQ&_mbSjP>!b%`3+@2rpAA34coi$t2229X%wmMka+=))eAo|C>n8kO%w$eTEJHQ!0PRnE_RUJyeuGMXNNfRd"
    "GtWQ~+w*)ie|$HW1J5@}<S>3;dPwUZj9~v-$%v}?YXH4npH|+#xU&~47hXXA5u5p8A5m00IDejb`|sxuKr3fBI2R-o"
    "r`8(gU8*lxtB2<co*l(S)R!6ZElNf_YF?v*oDx@x7%{BBze5Wtu58CI;s+|2oAzD~P9J4`ALILbN?Bb=Tjm751hE~5"
    "*~#{_BVE#7;*o@)kp(A`@P-2)MO1ZHJC(weBvNODTNAc6GTgZkK?XT{?_}@^%1NP-Ta#Z)4JBYVW_APb2xiR#Bkgu_"
    "(C?`nd~oo`sC1h%Ilv=F?6@3%Z4TQU1t2WBH6L`=1?Uu`v24stb<nF=eo&=adR!?<H1B&TZs!Me&omSLAz?Q9-Gtpt"
    "cel$E&myyl!VO4uNPTpAi;b<`TGkk4?-p0-D)8E7uwOWuLGMN)pldZ!3Lh%O)VkB-nTMM-{VK)V6S>m+f#;7`@k?~R"
    "&H%oaiXA*3ESHFU@$6Oqsd#2<(-kh9kDYR}qbUWS(~t7@+`uQ=Ke524g$(|g4$|23OE7+gPt+OSy{dhevxx$Xu-+Wk"
    "Oe_i8YIA4}{4?j*dK+1DZDaNTPB*!F$8ifGG*h3H9K_SHZ?eq8lI+?SFb#ZQu@$MCmFnFg!qca<%f4y!y60yX7?{QD"
    "+snF#;C43t$e%48o$GNvzHZ`fhji1*?vLa5vEL_l_l)~}yB}Y|bvr3Qg6)hws6?MUbv$|lHTYtgh_iHD%(YhL5wW*S"
    "g&EXoU;4~OUT)wf%U&BoYM9%ZOp<aA)y}V*+5LO!H*7*V<M2IPHc4aVa7gpp&&F@I$vfHCt6xlzx7zj@<Oz&yhk!Rg"
    "9v%e_`w^HiFUwtEFIN8j<qwU)fWMvjhClahE5nqVaQ{yw(EkCI{*(U"
)
# --8<-- [end:data]

# --8<-- [start:setup]
import base64
import math
import zlib
from functools import partial

import torch

from genref.projection.inpainting import inpaint, residual

levels = torch.tensor(list(zlib.decompress(base64.b85decode("".join(FIVES)))))
fives = (levels.view(64, 122).T / 16).double()
train, test = fives[:-4], fives[-4:]

# The flow x = m + S z with noise of a tenth in each pixel: its density is N(m, SS').
m, covariance = train.mean(0), train.T.cov() + 0.01 * torch.eye(64)
S = torch.linalg.cholesky(covariance)
inverse = S.inverse()


def log_prob(x):
    z = (x - m) @ inverse.T
    return -0.5 * z.square().sum(-1) - 32 * math.log(2 * math.pi) - S.diagonal().log().sum()


known = torch.zeros(8, 8).double()
known[:4] = 1
known = known.flatten()
measured = known * test
# --8<-- [end:setup]

# --8<-- [start:check]
curvature = torch.linalg.eigvalsh(covariance.inverse()[known == 0][:, known == 0])
sheet = inpaint(log_prob, measured, known)
best = inpaint(log_prob, measured, known, steps=600, step_size=1 / curvature[-1].item())
assert torch.equal(best[:, known == 1], test[:, known == 1])
assert residual(log_prob, best, known).abs().max() < 1e-9
assert (log_prob(best) > log_prob(sheet)).all()
print(f"curvatures {curvature[0]:.1f} to {curvature[-1]:.0f}, so steps below 2 / 100 descend")
for name, x in {"measured": measured, "300 steps": sheet, "optimum": best}.items():
    away = (x - best).norm() / (measured - best).norm()
    wrong = (x - test)[:, known == 0].square().mean().sqrt()
    print(f"{name:9}  way left {away:4.0%}   error per hidden pixel {wrong:.2f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Three handwritten fives in rows, 8 by 8 pixels, in five columns: the measured upper half over
    a hatched lower half, the filled images after 30 steps, after 300 and at the optimum, and the
    true ones. After 30 steps the lower half is a pale cloud, after 300 steps a five with a weak
    bow, at the optimum a five that is softer than the true one.
    """
    fig.set_size_inches(4.2, 2.9)
    early = inpaint(log_prob, measured, known, steps=30)
    columns = {"measured": measured, "30 steps": early, "300": sheet, "optimum": best, "true": test}
    panels = fig.subplots(3, 5)
    for (name, images), axes in zip(columns.items(), panels.T, strict=True):
        axes[0].set_title(name, size="medium")
        for ax, image in zip(axes, images[1:].view(3, 8, 8), strict=True):
            shade = (image * 8).round() / 8
            for level in shade[shade > 0].unique().tolist():
                row, column = (shade == level).nonzero().T
                ax.bar(column, 1, width=1, bottom=row - 0.5, color=("C0", level), linewidth=0)
            if name == "measured":
                ax.bar(3.5, 4, width=8, bottom=3.5, fill=False, hatch="////", linewidth=0)
            ax.set(xlim=(-0.5, 7.5), ylim=(7.5, -0.5), aspect="equal", xticks=[], yticks=[])


# --8<-- [end:figure]


# --8<-- [start:figure_box]
def figure_box(ax):
    """Ellipses of equal density around a point to the right of the unit square. Steps lead from the
    left of the square to its lower side, along that to the corner and up the right side, to the
    point with ordinate 0.2 where an ellipse touches it. A cross at ordinate 0.5 marks the clipped peak.
    """
    P, peak = torch.tensor([[2.0, -1.5], [-1.5, 2.0]]), torch.tensor([1.4, 0.5])

    def log_p(x):
        return -0.5 * ((x - peak) @ P * (x - peak)).sum(-1)

    start, unknown = torch.tensor([0.1, 0.15]), torch.zeros(2)
    path = torch.stack([inpaint(log_p, start, unknown, n, 0.2) for n in range(25)])
    grid = torch.cartesian_prod(torch.linspace(-0.15, 1.7, 26), torch.linspace(-0.15, 1.2, 26))
    x, y, f = grid[:, 0].view(26, 26), grid[:, 1].view(26, 26), -log_p(grid).view(26, 26)
    touching = -log_p(path[-1]).item()
    ax.contour(x, y, f, [0.2 * touching, touching, 3 * touching], colors="C2", linewidths=1)
    ax.plot([0, 1, 1, 0, 0], [0, 0, 1, 1, 0], color="C0", linewidth=2)
    ax.plot(*path.T, "o-", color="C1", markersize=4, linewidth=1, label="steps")
    ax.scatter(*path[-1], marker="*", s=120, color="C1", zorder=3, label="rest")
    ax.scatter(1, 0.5, marker="X", s=60, color="C3", zorder=3, label="clipped peak")
    ax.scatter(*peak, marker="P", s=50, color="C2", label="peak")
    ax.set(xlabel="first unknown pixel", ylabel="second unknown pixel", aspect="equal")
    ax.set(ylim=(-0.15, 1.75))
    ax.legend(loc="upper left", ncols=2, borderaxespad=0.2)


# --8<-- [end:figure_box]


# --8<-- [start:figure_reach]
def figure_reach(ax):
    """What is left of the way after 300 steps against the curvature, both on logarithmic axes. For
    steps of 1e-3 the curve falls from one to a hundredth at curvature 15. A linear decay of the
    same sum lies on it. Steps five times as large cross at 3. Ticks at the foot mark the 32
    curvatures of the hidden pixels, between 4 and 100, four of them left of 15.
    """
    c = torch.logspace(-0.3, 2.2, 50).double()
    line = torch.arange(300)
    schedules = {
        "1e-3": torch.full((300,), 1e-3),
        "linear decay, same sum": 2e-3 * (300 - line) / 301,
        "5e-3": torch.full((300,), 5e-3),
    }
    for (name, sizes), style in zip(schedules.items(), ("-", "--", ":"), strict=True):
        left = (1 - sizes.double()[:, None] * c).abs().log().sum(0).exp()
        shown = (left > 1e-5) & (left < 3)
        ax.plot(c, left.where(shown, torch.nan), style, linewidth=2, label=name)
    ax.axhline(0.01, color="C3", linewidth=1)
    ax.plot(curvature, torch.full((32,), 1.6e-5), "|", color="C4", markersize=9, label="the hidden pixels")
    ax.set(xscale="log", yscale="log", ylim=(1e-5, 2), xlim=(0.5, 4000))
    ax.set(xlabel="curvature", ylabel="share of the way left after 300 steps")
    ax.legend(loc="upper right")


# --8<-- [end:figure_reach]


# --8<-- [start:figure_noise]
def figure_noise(fig):
    """Above, a curve with a shallow valley at 0.2, a hill at 0.48 and a deeper valley at 0.8.
    Below, the pixel on the same axis against the step, downwards to 400. Without noise it goes
    straight from 0.3 to 0.2. Four noisy paths spread, some over the hill; as the noise fades they
    narrow, and after step 300 all stand still in a valley.
    """
    fig.set_size_inches(4.2, 4.6)

    def log_p(x):
        first = 0.3 * (-((x - 0.2) ** 2) / 0.02).exp()
        return (first + 0.7 * (-((x - 0.8) ** 2) / 0.02).exp()).log().sum(-1)

    def fading(first, k):
        return 0.1 * max(0, 1 - (first + k) / 300)

    top, below = fig.subplots(2, 1, sharex=True, height_ratios=(1, 1.5))
    x = torch.linspace(0, 1, 41)[:, None]
    top.plot(x, -1.383 - log_p(x), color="C2")
    top.set(ylabel="objective", ylim=(-1.5, 4))
    generator, step = torch.Generator().manual_seed(4), torch.arange(0, 401, 10)
    plain, noisy = [torch.full((1, 1), 0.3)], [torch.full((4, 1), 0.3)]
    for j in step[:-1].tolist():
        plain.append(inpaint(log_p, plain[-1], torch.zeros(1), 10))
        noise = partial(fading, j)
        noisy.append(inpaint(log_p, noisy[-1], torch.zeros(1), 10, 1e-3, noise, generator))
    noisy, plain = torch.cat(noisy, 1), torch.cat(plain, 1)
    lines = below.plot(noisy.T, step, color=("C1", 0.8), linewidth=1)
    lines[0].set_label("noise that fades")
    below.plot(plain[0], step, "--", color="C0", linewidth=2.5, label="no noise")
    below.set(xlabel="pixel", ylabel="step", ylim=(400, 0))
    below.legend(loc="lower center")


# --8<-- [end:figure_noise]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    for draw in (figure, figure_noise):
        draw(plt.figure(layout="constrained"))
    for draw in (figure_box, figure_reach):
        draw(plt.figure(layout="constrained").gca())
    plt.show()
